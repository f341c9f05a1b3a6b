;; Greets whom its first argument names. It needs no build: an image may hold it as it is.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)

  ;; 0: pointers to the arguments, 64: what to write, 72: how much was written, 256: the arguments
  (data (i32.const 192) "Hello ")
  (data (i32.const 208) ", from WAT\n")

  (func $length (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $text)))

  (func $print (param $text i32) (param $length i32)
    (i32.store (i32.const 64) (local.get $text))
    (i32.store (i32.const 68) (local.get $length))
    (drop (call $fd_write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 72))))

  (func (export "_start")
    (local $name i32)
    (drop (call $args_get (i32.const 0) (i32.const 256)))
    (local.set $name (i32.load (i32.const 4)))
    (call $print (i32.const 192) (i32.const 6))
    (call $print (local.get $name) (call $length (local.get $name)))
    (call $print (i32.const 208) (i32.const 11))))
