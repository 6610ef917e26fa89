;; Imports state, which its stage does not grant.
;; refused: imports `state`, which its stage isn't granted: add `grants: [state]`
;; uses: state
(func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p)))
