;; A command of WASI 0.2. Its second argument's length says how it ends: 1 returns ok, 2 returns
;; the error, 3 exits with 42, 4 traps.
(component
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:cli/exit@0.2.3" (instance $exit
    (export "exit" (func (param "status" (result))))
    (export "exit-with-code" (func (param "status-code" u8)))))
  (core module $memory
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $memory (instantiate $memory))
  (core func $get-arguments (canon lower (func $environment "get-arguments")
    (memory $memory "memory") (realloc (func $memory "realloc"))))
  (core func $exit-with-code (canon lower (func $exit "exit-with-code")))
  (core module $main
    (import "host" "memory" (memory 1))
    (import "host" "get-arguments" (func $get-arguments (param i32)))
    (import "host" "exit-with-code" (func $exit-with-code (param i32)))
    (func $boom unreachable)
    (func (export "run") (result i32)
      (local $length i32)
      (call $get-arguments (i32.const 0))
      ;; the list's second element is at 8, its length 4 further
      (local.set $length (i32.load offset=12 (i32.load (i32.const 0))))
      (if (i32.eq (local.get $length) (i32.const 2)) (then (return (i32.const 1))))
      (if (i32.eq (local.get $length) (i32.const 3)) (then (call $exit-with-code (i32.const 42))))
      (if (i32.eq (local.get $length) (i32.const 4)) (then (call $boom)))
      (i32.const 0)))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $memory "memory"))
    (export "get-arguments" (func $get-arguments))
    (export "exit-with-code" (func $exit-with-code))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run)))
