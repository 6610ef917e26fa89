;; Has a function that is shorter than the longest may be, and takes the compiler longer than it may.
;; refused: was not compiled within 1 ms
;; limit: compile_ms_max 1
(func (export "process") (param $p i32) (param $n i32) (result i32)
  $REPEAT 3000 (i32.store offset=# (local.get $p) (i32.add (i32.load offset=# (local.get $n)) (i32.const #)))
  (call $keep (local.get $p)))
