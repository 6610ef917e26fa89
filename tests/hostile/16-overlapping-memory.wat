;; Gives the same memory for every text and list that it is called with, over its own too: what it is told is
;; nonsense then, and that is all.
;; batch: answers
;; verdict: answers
(component
  $INCLUDE types
  (core module $env
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 32)))
  (core instance $env (instantiate $env))
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32)
      (memory.fill (i32.const 60000) (i32.const 0) (i32.const 1024))
      (call $ok (i32.const 60000) (local.get $n))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE typed-lift
  $INCLUDE typed-face)
