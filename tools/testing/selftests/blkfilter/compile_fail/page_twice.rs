// SPDX-License-Identifier: GPL-2.0
//~ E0499: nobody else has the memory that a bio reads into
fn read<'a>(bio: &mut NewBio<'a>, page: &'a mut BioPage, other: &'a mut BioPage) -> Result {
    bio.add_page(page, 0, 512)?;
    bio.add_page(page, 0, 512) //~ bad
    bio.add_page(other, 0, 512) //~ good
}
