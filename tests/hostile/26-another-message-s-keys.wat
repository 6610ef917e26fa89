;; Asks for state by the number of a message that its call does not have.
;; batch: error
;; verdict: error
;; says: message 3
;; uses: state
;; grants: state
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (call $increment (i32.const 3) (i32.const 288) (i32.const 1) (i64.const 1) (i32.const 960))
  (if (i32.load8_u (i32.const 960))
    (then (return (call $err (i32.load (i32.const 968)) (i32.load (i32.const 972))))))
  (call $keep (local.get $p)))
