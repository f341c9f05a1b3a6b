;; Opens the path of its second argument below the directory whose descriptor is 3 and this
;; many more as the third argument's digit says, follows links, prints the file's first bytes,
;; and exits with the error number, or 0. With a fourth argument, it creates the file and
;; writes "written" to it instead.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "written")
  (func $length (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (loop $more
      (if (i32.load8_u (local.get $end))
        (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $more))))
    (i32.sub (local.get $end) (local.get $text)))
  (func $check (param $error i32) (if (local.get $error) (then (call $exit (local.get $error)))))
  (func (export "_start")
    (local $path i32) (local $directory i32) (local $create i32)
    (call $check (call $args_sizes (i32.const 0) (i32.const 4)))
    (call $check (call $args (i32.const 1024) (i32.const 65536)))
    (local.set $path (i32.load (i32.const 1028)))
    (local.set $directory
      (i32.add (i32.const 3) (i32.sub (i32.load8_u (i32.load (i32.const 1032))) (i32.const 48))))
    (local.set $create (i32.gt_u (i32.load (i32.const 0)) (i32.const 3)))
    ;; rights: read 2, write 64; create is flag 1
    (call $check (call $open (local.get $directory) (i32.const 1) (local.get $path)
      (call $length (local.get $path)) (local.get $create)
      (select (i64.const 64) (i64.const 2) (local.get $create)) (i64.const 0) (i32.const 0) (i32.const 20)))
    (if (local.get $create)
      (then
        (i32.store (i32.const 8) (i32.const 32))
        (i32.store (i32.const 12) (i32.const 7))
        (call $check (call $write (i32.load (i32.const 20)) (i32.const 8) (i32.const 1) (i32.const 16))))
      (else
        (i32.store (i32.const 8) (i32.const 4096))
        (i32.store (i32.const 12) (i32.const 1024))
        (call $check (call $read (i32.load (i32.const 20)) (i32.const 8) (i32.const 1) (i32.const 16)))
        (i32.store (i32.const 12) (i32.load (i32.const 16)))
        (call $check (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))))
