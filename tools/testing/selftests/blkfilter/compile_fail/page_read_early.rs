// SPDX-License-Identifier: GPL-2.0
//~ E0502: what a bio reads is there when it has completed
fn read(
    cx: &Context<'_, Good>,
    owned: &Owned,
    pool: &BioSet,
    mut page: BioPage,
    to: &mut [u8],
) -> Result {
    let mut bio = NewBio::new(pool, Op::READ, ReqFlags::default(), 0, 1, GFP_KERNEL)?;
    bio.add_page(&mut page, 0, 512)?;
    page.read(0, to)?; //~ bad
    cx.submit_and_wait(owned, bio)?;
    page.read(0, to)?; //~ good
    Ok(())
}
