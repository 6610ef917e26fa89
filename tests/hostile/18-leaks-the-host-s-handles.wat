;; Takes handles of the host's without end, and gives none back.
;; batch: trap
;; verdict: trap
;; says: handle
;; uses: wasi
;; limit: host_calls_max 100000
(func (export "process") (param $p i32) (param $n i32) (result i32)
  (loop $again (drop (call $stderr)) (br $again)) unreachable)
