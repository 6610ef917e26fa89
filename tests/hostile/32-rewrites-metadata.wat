;; Sets two entries of metadata in turn, 4,000 times, in edits of a few bytes: the host writes 4 KiB again for each.
;; batch: answers
;; verdict: answers
;; stage: answer
;; says: metadata that go through more than
;; limit: answer_bytes_max 100000
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (local $at i32)
  (local $edits i32)
  (drop (memory.grow (i32.const 2)))
  (i64.store (i32.const 65520) (i64.const 0x131454d57))
  (i32.store (i32.const 65528) (i32.const 4001))
  (i32.store (i32.const 65532) (i32.load offset=8 (local.get $p)))
  ;; A value of 4,096 letters, then 4,000 times one of none under another name.
  (memory.fill (i32.const 65549) (i32.const 97) (i32.const 4096))
  (i64.store (i32.const 65536) (i64.const 0x10007))
  (i32.store (i32.const 65544) (i32.const 4096))
  (i32.store8 (i32.const 65548) (i32.const 97))
  (local.set $at (i32.const 69645))
  (loop $next
    (i64.store (local.get $at) (i64.const 0x10007))
    (i32.store offset=8 (local.get $at) (i32.const 0))
    (i32.store8 offset=12 (local.get $at) (i32.const 98))
    (local.set $at (i32.add (local.get $at) (i32.const 13)))
    (local.set $edits (i32.add (local.get $edits) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $edits) (i32.const 4000))))
  (call $ok (i32.const 65520) (i32.sub (local.get $at) (i32.const 65520))))
