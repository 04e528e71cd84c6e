// SPDX-License-Identifier: GPL-2.0
//~ E0505: memory outlives the bio that it is in
fn read(cx: &Context<'_, Good>, owned: &Owned, pool: &BioSet, mut page: BioPage) -> Result {
    let mut bio = NewBio::new(pool, Op::READ, ReqFlags::default(), 0, 1, GFP_KERNEL)?;
    bio.add_page(&mut page, 0, 512)?;
    drop(page); //~ bad
    cx.submit_and_wait(owned, bio)
}
