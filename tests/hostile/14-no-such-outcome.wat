;; Answers, in the typed width, an outcome that the contract does not have.
;; batch: answer
;; verdict: answer
;; says: discriminant: 9
(component
  $INCLUDE types
  $INCLUDE env
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32)
      (i32.store8 (i32.const 60000) (i32.const 9))
      (call $ok (i32.const 60000) (local.get $n))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE typed-lift
  $INCLUDE typed-face)
