;; Imports what there is not.
;; refused: imports `acme:db/sql@1.0.0`, which wasmill doesn't have
(component
  (import "acme:db/sql@1.0.0" (instance $sql (export "query" (func))))
  $INCLUDE env
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE lift
  $INCLUDE face)
