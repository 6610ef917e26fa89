;; Grows two memories, neither of them above the limit: together they are.
;; batch: memory
;; verdict: memory
;; says: 4194304 bytes
(memory $more 1)
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (if (i32.eq (memory.grow (i32.const 40)) (i32.const -1)) (then unreachable))
  (if (i32.eq (memory.grow $more (i32.const 40)) (i32.const -1)) (then unreachable))
  (call $keep (local.get $p)))
