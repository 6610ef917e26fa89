;; Has more memories than a plugin may.
;; refused: memories
(component
  $INCLUDE env
  (core module $more (memory 1) (memory 1))
  (core instance (instantiate $more))
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  $INCLUDE lift
  $INCLUDE face)
