;; Answers everything that might differ from one call to the next: chance, its own and WASI's; which NaN a division
;; gives; how far memory grows and what is in it. It gets the same each time. (No edits: a stage refuses them.)
;; batch: answers
;; verdict: answers
;; stage: answer
;; says: magic
;; uses: random wasi
(table $t 1 funcref)
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (local $zero f32)
  (local $at i32)
  (local $sum i64)
  (local.set $zero (f32.convert_i32_u (i32.sub (local.get $n) (local.get $n))))
  (i64.store (i32.const 900) (call $next (i32.const 0)))
  (i64.store (i32.const 908) (call $next (i32.const 0)))
  (i64.store (i32.const 916) (call $dice))
  (f32.store (i32.const 924) (f32.div (local.get $zero) (local.get $zero)))
  (f32.store (i32.const 928) (f32.sqrt (f32.sub (local.get $zero) (f32.const 1))))
  (f32.store (i32.const 932) (f32.add (f32.reinterpret_i32 (i32.const 0x7fa12345)) (local.get $zero)))
  (f64.store (i32.const 936) (f64.mul (f64.const inf) (f64.promote_f32 (local.get $zero))))
  (i32.store (i32.const 944) (memory.grow (i32.const 3)))
  (i32.store (i32.const 948) (memory.grow (i32.const 1000)))
  (i32.store (i32.const 952) (table.grow $t (ref.null func) (i32.const 77)))
  (local.set $at (i32.const 1024))
  (loop $next
    (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 7)) (i64.load (local.get $at))))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $next (i32.lt_u (local.get $at) (i32.const 131072))))
  (i64.store (i32.const 960) (local.get $sum))
  (call $ok (i32.const 900) (i32.const 68)))
