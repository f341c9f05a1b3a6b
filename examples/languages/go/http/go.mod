// The name that wit-bindgen's packages import each other by.
module wit_component

go 1.26.0

require go.bytecodealliance.org/pkg v0.4.0
