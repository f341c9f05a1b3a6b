// Package export_wasi_http_incoming_handler is a wasi:http service: it greets whom the path names.
// `wit-bindgen go` makes the packages that it imports, and the main one, of wit/world.wit.
package export_wasi_http_incoming_handler

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	witTypes "go.bytecodealliance.org/pkg/wit/types"
	"wit_component/wasi_http_types"
)

// Handle answers one request.
func Handle(request *wasi_http_types.IncomingRequest, out *wasi_http_types.ResponseOutparam) {
	name := strings.TrimPrefix(request.PathWithQuery().SomeOr("/"), "/")
	greeting := cmp.Or(os.Getenv("GREETING"), "Hello")

	response := wasi_http_types.MakeOutgoingResponse(wasi_http_types.MakeFields())
	body := response.Body().Ok()
	wasi_http_types.ResponseOutparamSet(out, witTypes.Ok[*wasi_http_types.OutgoingResponse, wasi_http_types.ErrorCode](response))

	stream := body.Write().Ok()
	stream.BlockingWriteAndFlush(fmt.Appendf(nil, "%s %s, from Go\n", greeting, name))
	stream.Drop()
	wasi_http_types.OutgoingBodyFinish(body, witTypes.None[*wasi_http_types.Fields]())
}
