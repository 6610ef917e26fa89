;; Has a function of more than a MiB.
;; refused: its longest function in bytes
(func (export "process") (param $p i32) (param $n i32) (result i32)
  $REPEAT 300000 (local.set $n (local.get $p))
  (call $keep (local.get $p)))
