// SPDX-License-Identifier: GPL-2.0
//~ E0505: the pool outlives its bios
fn read(cx: &Context<'_, Good>, owned: &Owned, pool: Pin<KBox<BioSet>>) -> Result {
    let bio = NewBio::new(&pool, Op::READ, ReqFlags::default(), 0, 1, GFP_KERNEL)?;
    drop(pool); //~ bad
    cx.submit_and_wait(owned, bio)
}
