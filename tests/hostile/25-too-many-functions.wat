;; Has more functions than it may.
;; refused: the number of functions
;; limit: functions_max 1000
$REPEAT 1000 (func)
(func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p)))
