;; Was built for an older contract.
;; refused: speaks version 0.0.9 of the plugin contract, this wasmill version 0.1.0
(component
  $INCLUDE env
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE lift
  (instance $face (export "process" (func $process)))
  (export "wasmill:plugin/transform@0.0.9" (instance $face)))
