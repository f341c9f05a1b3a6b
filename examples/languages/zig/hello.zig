//! Greets whom its first argument names, then prints the file that its second argument names.
const std = @import("std");

pub fn main(init: std.process.Init) !void {
    const args = try init.minimal.args.toSlice(init.arena.allocator());
    if (args.len != 3) std.process.fatal("usage: hello NAME FILE", .{});

    var buffer: [4096]u8 = undefined;
    var stdout = std.Io.File.stdout().writer(init.io, &buffer);
    const out = &stdout.interface;
    const greeting = init.environ_map.get("GREETING") orelse "Hello";
    try out.print("{s} {s}, from Zig\n", .{ greeting, args[1] });

    const text = try std.Io.Dir.cwd().readFileAlloc(init.io, args[2], init.arena.allocator(), .limited(1 << 20));
    try out.writeAll(text);
    try out.flush();
}
