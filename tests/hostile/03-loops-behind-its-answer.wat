;; Answers well, and loops for ever in the function that is called behind an answer.
;; batch: deadline
;; verdict: fuel
(component
  $INCLUDE env
  (core module $m
    (import "env" "memory" (memory 1))
    $INCLUDE answers
    (func (export "process") (param $p i32) (param $n i32) (result i32) (call $keep (local.get $p)))
    (func (export "after") (param i32) (loop $again (br $again))))
  (core instance $i (instantiate $m (with "env" (instance $env))))
  (func $process (param "frame" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "process") (memory (core memory $env "memory"))
      (realloc (core func $env "realloc")) (post-return (core func $i "after"))))
  $INCLUDE face)
