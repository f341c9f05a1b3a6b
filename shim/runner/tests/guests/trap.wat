;; Traps two calls deep.
(module $app
  (memory (export "memory") 1)
  (func $boom unreachable)
  (func (export "_start") (call $boom))
  (func (export "odd") (param i32)))
