;; Loops for ever in the destructor of a handle of its own.
;; batch: deadline
;; verdict: fuel
(component
  $INCLUDE env
  (core module $destructor (func (export "drop") (param i32) (loop $again (br $again))))
  (core instance $destructor (instantiate $destructor))
  (type $resource (resource (rep i32) (dtor (core func $destructor "drop"))))
  (core func $new (canon resource.new $resource))
  (core func $drop (canon resource.drop $resource))
  (core instance $host (export "new" (func $new)) (export "drop" (func $drop)))
  (core module $m
    (import "env" "memory" (memory 1))
    (import "host" "new" (func $new (param i32) (result i32)))
    (import "host" "drop" (func $drop (param i32)))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32)
      (call $drop (call $new (i32.const 1)))
      (call $keep (local.get $p))))
  (core instance $i (instantiate $m (with "env" (instance $env)) (with "host" (instance $host))))
  $INCLUDE lift
  $INCLUDE face)
