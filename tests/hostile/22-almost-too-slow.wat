;; Takes nearly all of its fuel for each call, and answers then. It slows down nobody but itself.
;; batch: answers
;; verdict: answers
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (local $left i32)
  (local.set $left (i32.const 165000))
  (loop $next
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $next (local.get $left)))
  (call $keep (local.get $p)))
