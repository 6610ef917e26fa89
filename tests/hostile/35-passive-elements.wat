;; Has functions in a segment that no table is made of: each would be memory of the host's, once for every instance.
;; refused: passive elements
(func $f)
(elem $idle func
  $REPEAT 1000 $f
)
(func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p)))
