;; Asks for random numbers of a message that its call does not have.
;; batch: trap
;; verdict: trap
;; says: message 3; this call has
;; uses: random
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (drop (call $next (i32.const 3)))
  (call $keep (local.get $p)))
