// A wasi:http service: greets whom the path names. `wit-bindgen c` makes service.h of wit/world.wit.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service.h"

static void write_all(wasi_http_types_borrow_outgoing_body_t body, char *text) {
  wasi_io_streams_own_output_stream_t stream;
  wasi_io_streams_stream_error_t error;
  if (!wasi_http_types_method_outgoing_body_write(body, &stream)) return;
  // At most 4096 bytes at a time.
  service_list_u8_t bytes = {(uint8_t *)text, strlen(text)};
  wasi_io_streams_method_output_stream_blocking_write_and_flush(
      wasi_io_streams_borrow_output_stream(stream), &bytes, &error);
  wasi_io_streams_output_stream_drop_own(stream);
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t response_out) {
  service_string_t path = {0};
  wasi_http_types_method_incoming_request_path_with_query(
      wasi_http_types_borrow_incoming_request(request), &path);
  const char *greeting = getenv("GREETING");
  char text[1024];
  snprintf(text, sizeof text, "%s %.*s, from C\n", greeting ? greeting : "Hello",
           path.len ? (int)path.len - 1 : 0, (char *)path.ptr + 1);
  service_string_free(&path);
  wasi_http_types_incoming_request_drop_own(request);

  wasi_http_types_result_own_outgoing_response_error_code_t response = {.is_err = false};
  response.val.ok = wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
  wasi_http_types_own_outgoing_body_t body;
  wasi_http_types_method_outgoing_response_body(
      wasi_http_types_borrow_outgoing_response(response.val.ok), &body);
  wasi_http_types_static_response_outparam_set(response_out, &response);
  write_all(wasi_http_types_borrow_outgoing_body(body), text);
  wasi_http_types_error_code_t error;
  wasi_http_types_static_outgoing_body_finish(body, NULL, &error);
}
