// Greets whom its first argument names.
const greeting = process.env.has("GREETING") ? process.env.get("GREETING") : "Hello";
console.log(`${greeting} ${process.argv[1]}, from AssemblyScript`);
