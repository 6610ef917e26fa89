;; Answers a list that it has, longer than an answer may be.
;; batch: answer
;; verdict: answer
;; says: more than 65536 bytes
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (drop (memory.grow (i32.const 2)))
  (call $ok (i32.const 0) (i32.const 100000)))
