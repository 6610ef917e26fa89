;; Writes as many entries of state as the host takes, and hands on its refusal.
;; batch: error
;; verdict: error
;; says: 4096 bytes of keys, names and values
;; uses: state
;; grants: state
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (local $i i32)
  (loop $next
    (i32.store (i32.const 900)
      (i32.or (i32.const 0x41414141)
        (i32.or (i32.and (i32.shl (local.get $i) (i32.const 16)) (i32.const 0x0f0000))
          (i32.or (i32.and (i32.shl (local.get $i) (i32.const 4)) (i32.const 0x0f00))
            (i32.and (i32.shr_u (local.get $i) (i32.const 8)) (i32.const 0x0f))))))
    (call $increment (i32.const 0) (i32.const 900) (i32.const 4) (i64.const 1) (i32.const 960))
    (if (i32.load8_u (i32.const 960))
      (then (return (call $err (i32.load (i32.const 968)) (i32.load (i32.const 972))))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br $next))
  unreachable)
