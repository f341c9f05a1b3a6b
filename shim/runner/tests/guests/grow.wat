;; Grows its memory from 1 MiB by 4 MiB. Exits with 0 when that worked, with 9 when not.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 16)
  (func (export "_start")
    (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1))
      (then (call $exit (i32.const 9))))))
