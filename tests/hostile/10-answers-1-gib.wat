;; Answers a list of 1 GiB that it does not have.
;; batch: answer
;; verdict: answer
;; says: out of bounds
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (call $ok (i32.const 0) (i32.const 0x40000000)))
