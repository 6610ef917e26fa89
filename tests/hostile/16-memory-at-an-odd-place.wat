;; Gives memory for records at an odd place.
;; batch: answer
;; verdict: answer
;; says: realloc return: result not aligned
(component
  $INCLUDE types
  (core module $env
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4097)))
  (core instance $env (instantiate $env))
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32)
      (call $keep (local.get $p))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE typed-lift
  $INCLUDE typed-face)
