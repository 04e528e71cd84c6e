// SPDX-License-Identifier: GPL-2.0
//~ E0423: an operation is not made of a number
fn op() -> Op {
    Op(36) //~ bad
    Op::READ //~ good
}
