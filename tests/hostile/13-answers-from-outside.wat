;; Points at an answer outside of its memory.
;; batch: answer
;; verdict: answer
;; says: out of bounds
(func (export "process") (param $p i32) (param $n i32) (result i32) (i32.const -4))
