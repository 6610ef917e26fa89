;; Answers 30,000 messages for one in the typed width, whose edits would take many times what they take themselves.
;; batch: answer
;; verdict: answer
;; says: more than 1000 messages emitted for one
;; limit: answer_bytes_max 67108864
;; limit: fuel 20000000
(component
  $INCLUDE types
  $INCLUDE env
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32)
      (drop (memory.grow (i32.const 58)))
      (memory.fill (i32.const 1024) (i32.const 0) (i32.const 3670000))
      ;; The outcome `several`: a list of messages in the zeros, no two of which are one.
      (i32.store8 (i32.const 1024) (i32.const 3))
      (i32.store offset=8 (i32.const 1024) (i32.const 4096))
      (i32.store offset=12 (i32.const 1024) (i32.const 30000))
      (call $ok (i32.const 1024) (local.get $n))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE typed-lift
  $INCLUDE typed-face)
