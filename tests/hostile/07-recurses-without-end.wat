;; Calls itself without end.
;; batch: trap
;; verdict: trap
;; says: stack
(func $deep (call $deep) (call $deep))
(func (export "process") (param $p i32) (param $n i32) (result i32) (call $deep) unreachable)
