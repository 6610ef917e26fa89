;; Answers 50,000 outcomes, each of which has the same 1,000 messages.
;; batch: answer
;; verdict: answer
;; says: more than 65536 bytes
;; limit: fuel 20000000
(component
  $INCLUDE types
  $INCLUDE env
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32)
      (local $at i32)
      (drop (memory.grow (i32.const 58)))
      (memory.fill (i32.const 1024) (i32.const 0) (i32.const 3670000))
      (local.set $at (i32.const 1024))
      (loop $next
        ;; The outcome `several`: a list of 1,000 messages in the zeros.
        (i32.store8 (local.get $at) (i32.const 3))
        (i32.store offset=8 (local.get $at) (i32.const 1024))
        (i32.store offset=12 (local.get $at) (i32.const 1000))
        (local.set $at (i32.add (local.get $at) (i32.const 72)))
        (br_if $next (i32.lt_u (local.get $at) (i32.const 3601024))))
      (call $ok (i32.const 1024) (i32.const 50000))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE typed-lift
  $INCLUDE typed-face)
