;; Gives a reason whose bytes are not UTF-8.
;; batch: answer
;; verdict: answer
;; says: utf-8
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (call $err (i32.const 256) (i32.const 2)))
