;; Points at an answer that is not aligned.
;; batch: answer
;; verdict: answer
;; says: align
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (drop (call $keep (local.get $p)))
  (i32.const 33))
