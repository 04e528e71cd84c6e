// SPDX-License-Identifier: GPL-2.0
//~ E0505: the pool outlives its bios
fn read(cx: &Context<'_, Good>, pool: Pin<KBox<BioSet>>) -> Result {
    let bio = cx.new_bio(&pool, Op::READ, ReqFlags::default(), 0, 1)?;
    drop(pool); //~ bad
    cx.submit_and_wait(bio)
}
