module wasmkind.dev/examples/languages/go/command

go 1.26.0
