;; Emits 5,000 messages for one: the answer may be so long, the messages not so many.
;; batch: answers
;; verdict: answers
;; stage: answer
;; says: more than 1000
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (local $at i32)
  (local.set $at (i32.const 65536))
  (drop (memory.grow (i32.const 2)))
  ;; The head of edits: how many, of a frame with how many messages. Then one edit of 12 bytes each.
  (i64.store (i32.const 65520) (i64.const 0x131454d57))
  (i32.store (i32.const 65528) (i32.const 5000))
  (i32.store (i32.const 65532) (i32.load offset=8 (local.get $p)))
  (loop $next
    (i32.store (local.get $at) (i32.const 11))
    (i64.store offset=4 (local.get $at) (i64.const 0))
    (local.set $at (i32.add (local.get $at) (i32.const 12)))
    (br_if $next (i32.lt_u (local.get $at) (i32.const 125536))))
  (call $ok (i32.const 65520) (i32.const 60016)))
