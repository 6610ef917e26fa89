;; Fills all of its memory, again and again.
;; batch: deadline
;; verdict: fuel
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (drop (memory.grow (i32.const 60)))
  (loop $again
    (memory.fill (i32.const 0) (i32.const 1) (i32.shl (memory.size) (i32.const 16)))
    (br $again))
  unreachable)
