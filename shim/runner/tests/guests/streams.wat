;; Writes its arguments, then its environment, each ended by a NUL, to standard output, copies
;; standard input to standard error, and exits with 3.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  ;; 0: count, 4: size, 8: vector of one buffer, 16: how much was read or written
  (func $put (param $fd i32) (param $buffer i32) (param $length i32)
    (i32.store (i32.const 8) (local.get $buffer))
    (i32.store (i32.const 12) (local.get $length))
    (drop (call $write (local.get $fd) (i32.const 8) (i32.const 1) (i32.const 16))))
  (func (export "_start")
    (drop (call $args_sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 65536)))
    (call $put (i32.const 1) (i32.const 65536) (i32.load (i32.const 4)))
    (drop (call $environ_sizes (i32.const 0) (i32.const 4)))
    (drop (call $environ (i32.const 1024) (i32.const 65536)))
    (call $put (i32.const 1) (i32.const 65536) (i32.load (i32.const 4)))
    (block $end
      (loop $more
        (i32.store (i32.const 8) (i32.const 65536))
        (i32.store (i32.const 12) (i32.const 4096))
        (br_if $end (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
        (br_if $end (i32.eqz (i32.load (i32.const 16))))
        (call $put (i32.const 2) (i32.const 65536) (i32.load (i32.const 16)))
        (br $more)))
    (call $exit (i32.const 3))))
