;; Calls the host while the host, in the middle of a call, asks it for memory.
;; batch: trap
;; verdict: trap
;; says: cannot leave component instance
(component
  $INCLUDE random
  (core instance $host (export "next" (func $next)))
  (core module $env
    (import "host" "next" (func $next (param i32) (result i64)))
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (drop (call $next (i32.const 0)))
      (i32.const 4096)))
  (core instance $env (instantiate $env (with "host" (instance $host))))
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE lift
  $INCLUDE face)
