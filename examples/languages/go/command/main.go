// Command hello greets whom its first argument names, then prints the file that its second argument
// names.
package main

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatalf("usage: %s NAME FILE", os.Args[0])
	}
	fmt.Printf("%s %s, from Go\n", cmp.Or(os.Getenv("GREETING"), "Hello"), os.Args[1])

	file, err := os.Open(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	if _, err := io.Copy(os.Stdout, file); err != nil {
		log.Fatal(err)
	}
}
