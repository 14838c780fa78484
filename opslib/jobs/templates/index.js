
const box = document.getElementById('search'), told = document.getElementById('told');
const rows = [...document.querySelectorAll('#runs tbody tr')];
const sift = () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) { row.hidden = !words.every(w => row.textContent.toLowerCase().includes(w)); shown += !row.hidden }
  told.textContent = shown + ' of ' + rows.length + ' runs';
};
box.addEventListener('input', sift); sift();
