;; Grows its memory until it may not, and then gives up.
;; batch: memory
;; verdict: memory
;; says: 4194304 bytes
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable)
