// SPDX-License-Identifier: GPL-2.0
//~ E0624: our own bios are made where sleeping is allowed
fn alloc<'a>(cx: &Context<'a, Good>, pool: &'a BioSet) -> Result<NewBio<'a>> {
    NewBio::alloc(pool, Op::READ, ReqFlags::default(), 0, 1) //~ bad
    cx.new_bio(pool, Op::READ, ReqFlags::default(), 0, 1) //~ good
}
