;; Calls the host without end.
;; batch: trap
;; verdict: trap
;; says: called the host more than 1000 times
;; uses: random
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (loop $again (drop (call $next (i32.const 0))) (br $again)) unreachable)
