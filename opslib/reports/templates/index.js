
const box = document.getElementById('search'), count = document.getElementById('count');
const rows = [...document.querySelectorAll('#runs tbody tr')];
const sift = () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) { row.hidden = !words.every(w => row.textContent.toLowerCase().includes(w)); shown += !row.hidden }
  count.textContent = shown + ' of ' + rows.length + ' runs';
};
box.addEventListener('input', sift); sift();
